"""The experiments of arXiv 1803.09820 as files: reading them, running them, judging what the paper claims."""
