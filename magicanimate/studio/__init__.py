"""What the page and the command line share above the animator: jobs that outlive a page and the program."""
