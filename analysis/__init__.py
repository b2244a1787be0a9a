"""What we conclude: tables, figures, a report and a recommendation, from files alone."""
