"""What a trial has learned, as pictures: a map of its evaluation set, and the nearest neighbours of some samples."""
