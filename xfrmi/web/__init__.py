"""`xfrmi web`: a lab as a page in a browser, and what the page asks for (docs/web.md).

`server` binds to the loopback address and prints a link; `door` decides who may come in; `api` says what may be asked.
`held` is the lab, as this process holds it. While a page looks on, `counters` samples what has moved, and while it
looks at packets, `taps` and `traces` tell `packets` what passes where; `detail` explains one, `forge` sends one again,
`rekey` and `pings` do what they are called. `hub` knows how many pages there are, and lets all of that rest without.
"""
