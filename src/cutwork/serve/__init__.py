"""The HTTP server: OpenAI's routes over the engine. The way of a request through it: docs/architecture.md.

served_models.py models by name, all loaded or each when it is asked for
served_model.py  a model with the thread that may run it, and what it is for
model_facts.py   what is told of a model
limits.py        what one client may ask for
metrics.py       what is counted, for Prometheus
tokens.py        the tokenizer of a model, off the event loop
token_places.py  where tokens begin in their text
time_limit.py    an end to programs that came with a model
log.py           one line of JSON for every record
grammar.py       answers that must be JSON, or follow a regex, choices or a grammar
grammar_trial.py whether a grammar can be followed, in a process of its own
answer_fields.py what every answer says of itself: id, usage, timings
batch.py         a file of requests, answered offline

http/app.py         the application: all routes, behind the middleware
http/connections.py below the application: headers that come in time
http/middleware.py  before every route: host, API key, body, request id; after it: a line in the log
http/bodies.py      bodies on their way in: their size and time, and what all of them hold
http/json_body.py   bodies in JSON: no half characters, not too deep
http/errors.py      errors in OpenAI's shape
http/stream.py      how an answer leaves: whole, or as server-sent events

routes/generation.py   what completions and chat have in common: fields, limits, the engine's options
routes/form.py         what a request says of its answer's form
routes/completions.py  /v1/completions
routes/infill.py       /infill, as completions
routes/chat_request.py what a conversation's request may hold
routes/thinking.py     what a request says of the model's thoughts
routes/conversation.py from a chat's request to its parts as they come
routes/chat.py         /v1/chat/completions
routes/responses.py    /v1/responses, as chats
routes/anthropic.py    /v1/messages, as chats
routes/audio.py        /v1/audio/transcriptions and translations
routes/embeddings.py   /v1/embeddings
routes/classify.py     /classify, /v1/rerank
routes/translate.py    /translate
routes/info.py         models, tokens, health, metrics
routes/schema.py       what request bodies have in common

jobs/job.py          a request's work, and the thread that does it: queue, limit, deadline, cancelling, drain
jobs/fair_lock.py    whose turn it is to compute, where a server has several models
jobs/worker.py       text: choices, and the thread that steps for all of them
jobs/scoring.py      log-probabilities of prompts, between the steps
jobs/reader.py       texts that are read only, those of all requests together
jobs/transcriber.py  speech: recordings, one after the other
"""
