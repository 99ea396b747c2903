"""Caffe's messages: schema, text, binary files, and files of every age."""
