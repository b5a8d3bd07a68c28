"""What the commands do, without the command line: each module takes options and gives a result record."""
