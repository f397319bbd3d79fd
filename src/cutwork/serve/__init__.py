"""The HTTP server: OpenAI's routes over the engine.

app.py        puts it together      worker.py    the thread that owns an engine and steps it
schemas.py    what requests hold    guard.py     body size, API keys, request ids, the access log
"""
