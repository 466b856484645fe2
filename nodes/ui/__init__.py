"""What nodes share: settings as inputs, wire types, file names, what the page is told."""
