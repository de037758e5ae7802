"""The configuration of a network's addresses: models, rules, and what follows from them."""
