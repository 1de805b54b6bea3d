EXPLAINED = "explained: "
def one_model(seed): raise NotImplementedError
def replay(seed): raise NotImplementedError
