"""What tests share: hand-moved time, seeds and snapshots, a scripted provider, a faulty wire."""
