"""The queue of an experiment: ledger, transitions, leases."""
