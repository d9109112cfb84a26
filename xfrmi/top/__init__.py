"""`xfrmi top`: what a daemon does, as one looks on.

    client.samples   what a daemon has done up to a moment
    selection        two samples -> rates, and which states come first
    drawing          numbers, bars, replay windows as text
    picture          two samples and a time -> the lines of the screen
    view, keys       what the reader wants to see, and how a key changes that
    screen           the terminal, and the loop over all of it

Only `screen` does I/O.
"""
