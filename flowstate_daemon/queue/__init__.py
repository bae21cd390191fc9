"""Queue: the only room that speaks Redis. Bull 4's layout, our own Lua, batches of up to 100 jobs a call."""
