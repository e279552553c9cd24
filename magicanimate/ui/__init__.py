"""The page in the browser: widgets and their handlers; everything else is the animator's."""
