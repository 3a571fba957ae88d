"""`python -m bench.worker`."""

from bench.engines.transformers.ranks import leave
from bench.worker import main

leave(main())
