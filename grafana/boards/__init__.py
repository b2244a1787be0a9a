"""The dashboards, one module for each. A module has a function `dashboard()` that returns the complete dashboard."""
