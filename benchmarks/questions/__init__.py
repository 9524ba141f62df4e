"""Open questions of speed: alternative implementations, each compared with the present one."""
