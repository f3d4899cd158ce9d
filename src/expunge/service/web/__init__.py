"""Pages for the people who handle requests: plain HTML with forms, no script, on this machine alone unless a proxy stands before it.

They are built with Starlette, which the guarded endpoint uses already: one framework, and forms need none of what another one adds.
"""
