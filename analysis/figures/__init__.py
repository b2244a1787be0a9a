"""Draw the figures of a report from its tables, each with a sentence that states what it shows."""
