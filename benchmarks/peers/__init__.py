"""Networks of others, beside which ours is measured."""
