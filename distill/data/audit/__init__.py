"""What a look at every image of a data set tells: copies, leaks, oddities, splits by groups."""
