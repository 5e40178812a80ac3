"""brokenimport: A Flower app that needs a package nobody has."""
