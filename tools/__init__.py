"""Programs for the people who work on the repository. The product does not need them."""
