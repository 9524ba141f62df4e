"""Third-party networks that ours is compared with."""
