"""From C sources to triples: what a function says of itself, its source, and what compilers make of it."""
