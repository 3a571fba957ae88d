"""`python -m bench.worker`."""

import os

# Nothing in a worker may reach for a model hub: the parent has fetched what is loaded.
os.environ["HF_HUB_OFFLINE"] = "1"

from bench.engines.transformers.ranks import leave
from bench.worker import main

leave(main())
