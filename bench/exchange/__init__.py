"""Results from and for other tools. docs/exchange.md has every definition that is mapped.

Reading: `foreign` (a file that we did not write, and what a tool's figures become), `importing`
(the table of tools, and the records into a folder), one file a tool. Writing: `exporting` (the
table of formats), `frame` (one row a record, also `bench.read_results`), one file a format.
"""
