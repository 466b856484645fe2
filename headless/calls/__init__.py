"""What the five commands do, as functions: the command line calls them, and ``sampling_kit.api`` shows them.

A function here takes plain values, returns frozen ones, prints nothing and exits nowhere: what happens
meanwhile is told to callbacks. Heavy imports wait until a function is called.
"""
