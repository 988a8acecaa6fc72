"""Texts as token ids, one kind of tokenizer a file; id 0 is padding in all of them."""
