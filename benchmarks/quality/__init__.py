"""Quality of results: distance to the truth, temporal stability and naturalness."""
