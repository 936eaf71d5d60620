"""How many labels are wrong, as far as classifiers can tell."""
