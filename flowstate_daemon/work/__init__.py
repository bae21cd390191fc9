"""Work: the engine. One loop per file; jobs come in through `fetcher` and leave through `settler`."""
