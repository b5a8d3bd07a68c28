"""Small trained models for demos and tests, and the recipes that make them. Not part of the installed package."""
