"""Read run folders into one frame with a row for each request, with grades and costs."""
