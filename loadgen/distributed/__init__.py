"""Runs that Locust distributes over several processes and hosts, and the merge of their files into one run."""
