"""Those who teach: frozen networks that are asked, or their answers of before."""
