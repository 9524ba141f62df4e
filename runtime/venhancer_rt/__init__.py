"""The deployed product: commands, engines and the sampling loop."""
