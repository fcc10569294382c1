"""How a model is found, built, given weights, checked and put into the form a backend wants."""
