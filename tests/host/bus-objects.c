/* Follows the daemon's objects as a desktop's program does: by GDBusObjectManagerClient.
 *
 *     bus-objects ADDRESS NAME
 *
 * Prints one JSON object a line: {"event": "ready", "objects": N}, "added" and "removed" with a
 * path, "changed" with a path and the property's name, "owner" with whether NAME has one. Ends when
 * its standard input does.
 */

#include <gio/gio.h>
#include <stdio.h>
#include <stdlib.h>

static void on_added(GDBusObjectManager *manager, GDBusObject *object, gpointer data)
{
    (void)manager;
    (void)data;
    printf("{\"event\": \"added\", \"path\": \"%s\"}\n", g_dbus_object_get_object_path(object));
}

static void on_removed(GDBusObjectManager *manager, GDBusObject *object, gpointer data)
{
    (void)manager;
    (void)data;
    printf("{\"event\": \"removed\", \"path\": \"%s\"}\n", g_dbus_object_get_object_path(object));
}

static void on_changed(GDBusObjectManagerClient *manager, GDBusObjectProxy *object,
                       GDBusProxy *interface, GVariant *changed, const gchar *const *invalidated,
                       gpointer data)
{
    (void)manager;
    (void)interface;
    (void)invalidated;
    (void)data;
    GVariantIter iter;
    const gchar *name;
    GVariant *value;
    g_variant_iter_init(&iter, changed);
    while (g_variant_iter_loop(&iter, "{&sv}", &name, &value))
        printf("{\"event\": \"changed\", \"path\": \"%s\", \"name\": \"%s\"}\n",
               g_dbus_object_get_object_path(G_DBUS_OBJECT(object)), name);
}

static void on_owner(GObject *manager, GParamSpec *spec, gpointer data)
{
    (void)spec;
    (void)data;
    gchar *owner = g_dbus_object_manager_client_get_name_owner(G_DBUS_OBJECT_MANAGER_CLIENT(manager));
    printf("{\"event\": \"owner\", \"there\": %s}\n", owner ? "true" : "false");
    g_free(owner);
}

static gboolean on_stdin(GIOChannel *channel, GIOCondition condition, gpointer loop)
{
    (void)channel;
    (void)condition;
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static void die(GError *error)
{
    fprintf(stderr, "bus-objects: %s\n", error->message);
    exit(1);
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    if (argc != 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    GDBusConnection *bus = g_dbus_connection_new_for_address_sync(
        argv[1],
        G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT | G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
        NULL, NULL, &error);
    if (!bus)
        die(error);
    GDBusObjectManager *manager = g_dbus_object_manager_client_new_sync(
        bus, G_DBUS_OBJECT_MANAGER_CLIENT_FLAGS_DO_NOT_AUTO_START, argv[2],
        "/org/spice_space/Sessiond1", NULL, NULL, NULL, NULL, &error);
    if (!manager)
        die(error);
    g_signal_connect(manager, "object-added", G_CALLBACK(on_added), NULL);
    g_signal_connect(manager, "object-removed", G_CALLBACK(on_removed), NULL);
    g_signal_connect(manager, "interface-proxy-properties-changed", G_CALLBACK(on_changed), NULL);
    g_signal_connect(manager, "notify::name-owner", G_CALLBACK(on_owner), NULL);
    GList *objects = g_dbus_object_manager_get_objects(manager);
    printf("{\"event\": \"ready\", \"objects\": %u}\n", g_list_length(objects));
    g_list_free_full(objects, g_object_unref);

    GMainLoop *loop = g_main_loop_new(NULL, FALSE);
    GIOChannel *input = g_io_channel_unix_new(0);
    g_io_add_watch(input, G_IO_IN | G_IO_HUP, on_stdin, loop);
    g_main_loop_run(loop);
    return 0;
}
