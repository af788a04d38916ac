"""The settings: what each of them may be, and one check of all of them."""
