"""Models made up here, pickled as scikit-learn 0.23 would have."""

import pickle

import numpy as np


class Made:
    """Pickles by its arguments and its state."""

    def __init__(self, state, *arguments):
        self.state, self.arguments = state, arguments

    def __reduce__(self):
        return type(self), self.arguments, self.state


RandomForestClassifier, DecisionTreeClassifier, Tree, SVC = (
    type(name, (Made,), {"__module__": __name__})
    for name in ("RandomForestClassifier", "DecisionTreeClassifier", "Tree", "SVC")
)
MODULES = {
    "RandomForestClassifier": "sklearn.ensemble._forest",
    "DecisionTreeClassifier": "sklearn.tree._classes",
    "Tree": "sklearn.tree._tree",
    "SVC": "sklearn.svm._classes",
}


def pickled(model):
    """Pickle a model; its names are then put where scikit-learn has them."""
    content = pickle.dumps(model, 3)
    for name, module in MODULES.items():
        content = content.replace(
            f"c{__name__}\n{name}\n".encode(), f"c{module}\n{name}\n".encode()
        )
    return content


NODE = [("left_child", "<i8"), ("right_child", "<i8"), ("feature", "<i8"), ("threshold", "<f8")]


def forest_of(*trees):
    """A random forest of trees, each given as (left, right, bit) by node and its counts."""
    estimators = []
    for nodes, values in trees:
        nodes = np.array([(*node, 0.5 if node[0] > 0 else -2.0) for node in nodes], NODE)
        values = np.array(values, float)[:, None, :]
        tree = Tree({"max_depth": 2, "nodes": nodes, "values": values}, 2048, 1)
        estimators.append(DecisionTreeClassifier({"tree_": tree}))
    return RandomForestClassifier({"classes_": np.array([0.0, 1.0]), "estimators_": estimators})


def svc_of(vectors):
    """A support vector machine with two vectors."""
    state = {
        **{"classes_": np.array([0, 1]), "kernel": "rbf", "support_vectors_": vectors},
        **{"_dual_coef_": np.array([[1.5, -2.0]]), "_intercept_": np.array([0.25])},
        **{"_gamma": 0.01, "_probA": np.array([-3.0]), "_probB": np.array([0.5])},
    }
    return SVC(state)
