"""The file formats of other libraries and our own.

One module per format; what is particular to a family is a `Dialect`, data in the family's own file.
"""
