"""The queue in Bull 4's wire format: own Lua scripts for up to 100 jobs a call."""
