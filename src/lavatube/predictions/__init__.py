"""The life of one prediction: an append-only log of events, which every protocol reads. Knows no protocol."""
