if __name__ != "lepton.codegen":
    raise ImportError("import lepton.codegen")
