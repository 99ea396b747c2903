"""Cyclical learning rates and momentum for a Caffe checkout: `python -m caffe_patch apply CAFFE_ROOT`.

Standard library only, Python 3.8 or later, so that it runs where an old Caffe does.
"""
