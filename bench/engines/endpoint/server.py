"""Measuring a server from outside: any that speaks OpenAI's completions API over HTTP.

`settings` what an arm says of the server; `http` bytes and when they came; `streams` one streamed
answer and what is wrong with it; `prompts` what is asked; `identity` who answers; `client` one
request with its retries; `asking` the requests of a workload; `sending` how many at once, and when,
by one client process or several (`crew`, `member`, `wire`); `load` which of them are measured, and
`steady` of a given rate; `window` what it all amounts to. Engine `bench.engines.endpoint` puts them
together. docs/serving.md has the definitions.

Standard library, and httptools for the framing of HTTP/1.1: it does no input or output, so that
bytes are stamped the moment the event loop hands them over, before anything reads them. A whole
HTTP client would stamp them after its own parsing, pools and locks, once each waiting task has been
woken.
"""
