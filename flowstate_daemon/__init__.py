"""flowstate-daemon: sends FlowState's emails from a Bull 4 queue, and plans the scheduled ones."""

__version__ = "0.1.0"
