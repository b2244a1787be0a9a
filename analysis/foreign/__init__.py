"""Read the result files of other load tools: one module for each tool, which turns a file into records of this suite."""
