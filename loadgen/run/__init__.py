"""One run against one server: prepare it, send the requests, record the answers, and judge the result."""
