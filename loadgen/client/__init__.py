"""The HTTP client: sends one request and records when each part of the streamed response arrives.

This package knows neither when requests are due nor what is measured from the timestamps.
"""
