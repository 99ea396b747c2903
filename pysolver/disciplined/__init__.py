"""The method of arXiv 1803.09820: range tests, clues of under- and overfitting, and what follows from them."""
