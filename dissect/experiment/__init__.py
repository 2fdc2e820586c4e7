"""The experiment: from a request to finished run folders, and back from a folder to its model.

It prints nothing: data sets, observers and `say`, which takes notes of one line, are passed in.
"""
